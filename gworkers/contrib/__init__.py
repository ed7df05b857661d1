"""What frameworks need around a handler, each in a module of its own, named in ``middleware``,
``hooks`` and ``app.setup`` by its dotted path. Each needs its extra: ``pip install gworkers[django]``.
"""
