"""The store of labels: what users decided about images, and its way in and out."""
