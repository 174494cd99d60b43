"""The paper's comparison: a fully convolutional network that names defects pixel by pixel."""
