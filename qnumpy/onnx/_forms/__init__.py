"""The forms that a quantized layer takes in a model, one file a form."""
