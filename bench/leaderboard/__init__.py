"""Result files, the tables made from them, and the folder that holds both."""
