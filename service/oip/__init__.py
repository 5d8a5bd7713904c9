"""The Open Inference Protocol, version 2: what Triton's and KServe's clients speak.

The middle (`requests`, `tensors`, `plan`, `inference`) knows neither HTTP nor protobuf; codecs
and routes are around it. https://github.com/kserve/open-inference-protocol is the specification,
and https://github.com/triton-inference-server/server/tree/main/docs/protocol its extensions.
"""
