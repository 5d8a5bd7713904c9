"""Character language models of fast.ai's lesson on recurrent networks (2018, lessons 6 and 7).

`TEXT_NETWORKS` is the registry; `build_text_network` reads it. Nothing here needs or touches the
image networks. `models.text.options` needs no torch.
"""
