"""Small pieces that know nothing of the product: files, errors, words, processes."""
