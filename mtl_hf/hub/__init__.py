"""The Hub: the card of a model, and the push."""
