"""FedMD and FedDF for clients of different architecture, reproduced; see README.md."""
