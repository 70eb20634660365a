"""kdlib's Steps as HTTP functions: the function itself, its image, and its deployment with and without a cluster."""
