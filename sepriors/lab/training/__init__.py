"""What the weights of a card are learned with: simulators, losses, one training loop."""
