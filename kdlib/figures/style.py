"""What all figures share: how strategies are called."""

TITLES = {"fedmd": "FedMD", "feddf": "FedDF", "alone": "alone", "fedavg": "FedAvg"}
