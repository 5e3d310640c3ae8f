"""Models: one model, one file; tensors in, tensors out.

The contract: an ``nn.Module`` whose constructor keeps its keyword arguments in ``config``; ``forward(flux, ivar)``
gives ``flux_model`` and ``ivar_model``, and where it can ``latent_mean``, so that a ranking need not encode once more;
``loss`` has shape ``(object,)``; ``encode`` has shape ``(object, n_latent)``; a pixel with ``ivar == 0`` counts for
nothing.
"""
