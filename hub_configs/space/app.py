"""A Hugging Face Space with the app of transformers-groma. `GROMA_MODEL` names the model: a Hub name or a folder."""

import os

from transformers_groma.apps.app_settings import AppSettings
from transformers_groma.apps.gradio_app import build_app, launch_options
from transformers_groma.cli.models import embedded_model, is_embedded, model_name
from transformers_groma.serving.engine import Engine

# `groma push ORG/MODEL ORG/SPACE --type space` writes the name of the model here.
MODEL = ""

# Without a name the Space shows groma-tiny, which comes with the package and only knows coloured shapes.
model = os.environ.get("GROMA_MODEL") or MODEL or str(embedded_model())
settings = AppSettings(model_name(model), knows_shapes_only=is_embedded(model))
engine = Engine.from_pretrained(model, **settings.engine_options())
demo = build_app(engine, settings)

if __name__ == "__main__":
    demo.launch(**launch_options(settings))
