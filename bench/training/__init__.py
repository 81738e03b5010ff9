"""The one training loop, with optimisers, references and the gradients of several processes."""
