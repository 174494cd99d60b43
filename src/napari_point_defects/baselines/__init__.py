"""What the networks are compared with: rules without learning, and the physical limit."""
