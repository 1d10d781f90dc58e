"""Trained networks in a program of your own.

    from benchmark.deploy import load

    model = load('results/runs/parts/rfnet/uniform-.../seed0')
    model({'colour': image, 'thermal': None})  # probabilities of model.classes

The folder of a run holds all that is needed; the training data need not be there.
"""

from benchmark.engine.deployed import Model, load

__all__ = ['Model', 'load']
