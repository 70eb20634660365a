"""DS-FL, a small ResNet and an MLP, as people who do not write kdlib would add them."""
