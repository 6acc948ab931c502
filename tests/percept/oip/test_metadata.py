"""Metadata and configuration of server and models, read by NVIDIA's client from a real server."""

from tritonclient.http import InferenceServerClient, InferRequestedOutput

from tests.percept.oip.triton import CLASSIFIER, RED, SEGMENTER, image_input


def test_metadata_describes_server_and_models(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    metadata = triton.get_server_metadata()
    assert metadata["name"] == "percept"
    extensions = {"binary_tensor_data", "classification", "model_configuration", "model_repository"}
    assert set(metadata["extensions"]) == extensions
    assert triton.is_model_ready(CLASSIFIER)
    assert triton.is_model_ready(CLASSIFIER, "1")
    assert not triton.is_model_ready(CLASSIFIER, "2")
    assert not triton.is_model_ready("unknown")
    model = triton.get_model_metadata(SEGMENTER, "1")
    assert (model["name"], model["versions"]) == (SEGMENTER, ["1"])
    assert model["inputs"] == [
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, 64, 48, 3]},
        {"name": "image", "datatype": "BYTES", "shape": [-1, 1]},
    ]
    shapes = {output["name"]: (output["datatype"], output["shape"]) for output in model["outputs"]}
    assert shapes == {
        "scores": ("FP32", [-1, 4, 16, 12]),
        "logits": ("FP32", [-1, 4, 16, 12]),
        "colour": ("FP32", [-1, 3, 16, 12]),
        "cam": ("FP32", [-1, -1, -1]),
        "cam_target": ("INT64", [-1]),
    }


def test_configuration_agrees_with_metadata(triton: InferenceServerClient) -> None:
    config, metadata = triton.get_model_config(CLASSIFIER, "1"), triton.get_model_metadata(CLASSIFIER)
    assert (config["name"], config["platform"], config["max_batch_size"]) == (CLASSIFIER, metadata["platform"], 4)
    pairs = ((metadata["inputs"], config["input"]), (metadata["outputs"], config["output"]))
    for described, configured in pairs:
        assert [tensor["name"] for tensor in described] == [tensor["name"] for tensor in configured]
        assert [tensor["shape"] for tensor in described] == [[-1, *tensor["dims"]] for tensor in configured]
    assert {tensor["name"]: (tensor["data_type"], tensor["optional"]) for tensor in config["input"]} == {
        "pixels": ("TYPE_UINT8", True),
        "image": ("TYPE_STRING", True),
    }


def test_outputs_have_the_shapes_of_the_metadata(triton: InferenceServerClient) -> None:
    outputs = triton.get_model_metadata(SEGMENTER)["outputs"]
    requested = [InferRequestedOutput(output["name"]) for output in outputs]
    result = triton.infer(SEGMENTER, image_input(RED, RED), outputs=requested)
    for output in outputs:
        values = result.as_numpy(output["name"])
        assert result.get_output(output["name"])["datatype"] == output["datatype"]
        assert all(size in (-1, actual) for size, actual in zip(output["shape"], values.shape, strict=True))
        assert len(values) == 2
