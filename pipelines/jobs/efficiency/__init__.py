"""What backbones cost: parameters, multiply-adds, time and memory."""
