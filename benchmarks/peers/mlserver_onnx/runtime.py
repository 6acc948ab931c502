"""MLServer: a custom runtime, the photo as base64 in a V2 inference request, with the given number of parallel workers.

From MLServer's documentation: "Custom Inference Runtimes", "Content Types", "Parallel Inference".
"""

import json

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from model import Model


class Classifier(MLModel):
    """A model in each worker."""

    async def load(self) -> bool:
        """Load the model."""
        self.model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The classes of a posted photo, as JSON in a string."""
        (photo,) = Base64Codec.decode_input(payload.inputs[0])
        answer = StringCodec.encode_output("classes", [json.dumps(self.model.answer(photo))])
        return InferenceResponse(model_name=self.name, outputs=[answer])
