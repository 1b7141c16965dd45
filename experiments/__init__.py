"""Experiments that reproduce the documents' models. `python -m experiments list` names them."""
