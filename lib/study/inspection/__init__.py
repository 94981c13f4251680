"""What a model holds of an image: visual tokens by layer, attention, and numbers about them.

Used for the one image that the figures show and, by the stage "population", for many.
"""
