"""Does an explainer care about the model and the image at all?"""
