"""Result files, and the tables and pictures made from them."""
