"""Open Inference Protocol, version 2: the protocol of Triton's and KServe's clients.

The core (`types`, `tensors`, `validation`, `inference`) depends on neither HTTP nor protobuf;
codecs and routes are built around it. https://github.com/kserve/open-inference-protocol is the
specification, and https://github.com/triton-inference-server/server/tree/main/docs/protocol
describes the extensions.
"""
