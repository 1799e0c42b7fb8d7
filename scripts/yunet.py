"""Make `wavfusion/weights/yunet_n.onnx` from `onnx/yunet_n_dynamic.onnx` of ShiqiYu/libfacedetection.train.

OpenCV 4 reads no `Shape` of a free axis. The graph asks for one only to know how many pictures there are: 1 here. All
tensors are taken over, and onnxruntime gives the same numbers for both files.

    python scripts/yunet.py yunet_n_dynamic.onnx wavfusion/weights/yunet_n.onnx
"""

import sys

import numpy as np
import onnx
from onnx import numpy_helper

SHAPES = ("Shape", "Gather", "Unsqueeze", "Concat")  # [pictures, -1, channels], which every output is reshaped to


def one_picture(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the computed shapes of the outputs by constants."""
    graph = model.graph
    known = {each.name: each for each in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Reshape":
            _, free, channels = made_by[node.input[1]].input
            shape = [1, *(int(numpy_helper.to_array(known[name])[0]) for name in (free, channels))]
            graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), node.input[1]))
    nodes = [node for node in graph.node if node.op_type not in SHAPES]
    used = {name for node in nodes for name in node.input}
    tensors = [each for each in graph.initializer if each.name in used]
    for field, kept in ((graph.node, nodes), (graph.initializer, tensors)):
        del field[:]
        field.extend(kept)
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    source, out = sys.argv[1:]
    onnx.save(one_picture(onnx.load(source)), out)
