"""From a source to a verified bundle: the steps of `percept export`.

In come `ExportOptions`; every guess is reported. Out comes a bundle that was compared with the network that it was
exported from, or an error.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from pydantic import ValidationError

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import MANIFEST, Manifest, OutputHead, Provenance, TaskName
from percept.errors import BundleError, format_validation_errors
from percept_models.autodiff.tail import LOGITS
from percept_models.export.bundle_writer import BundleDescription, write_bundle
from percept_models.export.options import ExportOptions
from percept_models.export.photos import read_photos
from percept_models.export.precision import to_float16, to_int8
from percept_models.export.preconditions import check_request, is_onnx_file
from percept_models.export.report import Report, format_line
from percept_models.export.source_network import SourceNetwork, open_source
from percept_models.export.summary import format_shape, report_description
from percept_models.export.tails import TappedLayer, build_tails
from percept_models.export.taps import TappedNetwork, tap_network
from percept_models.graph.reader import Array, Graph, Shape
from percept_models.importer.quantization import restore_rounding
from percept_models.sources.labels import choose_labels
from percept_models.verify.bundle import verify_bundle
from percept_models.verify.onnx_reference import Reference, trunk_reference
from percept_models.verify.table import format_check

TASKS: Mapping[int, TaskName] = {2: "classification", 4: "segmentation"}  # by the rank of the logits
COMPARED_PHOTOS = 32  # photos on which lower precision is compared with float32


def convert(options: ExportOptions, report: Report) -> Path:
    """Export the source as a bundle, verify it and return its folder.

    Raises `BundleError` with the reason where the source cannot be loaded, does not fit the options, or the bundle
    does not compute the same; no file remains then.
    """
    check_request(options)
    try:
        if (Path(options.source) / MANIFEST).is_file():
            return _convert_bundle(options, report)
        return _convert_network(options, report)
    except ValidationError as error:
        raise BundleError(f"the bundle would violate the contract: {format_validation_errors(error)}") from error
    except ValueError as error:  # a network that cannot become a trunk
        raise BundleError(" ".join(str(error).split())) from error


def _convert_network(options: ExportOptions, report: Report) -> Path:
    """Export a torch network or an ONNX file."""
    source = open_source(options, report)
    if source.quantized and options.precision != "float32":
        raise BundleError(f"{options.source} is quantized already: leave out --precision")
    logits = Graph(source.trunk).shapes[LOGITS]
    if len(logits) not in TASKS or None in logits[1:]:
        raise BundleError(f"logits of shape {format_shape(logits)} are neither [N,K] nor [N,K,h,w]")
    tapped = tap_network(options, source, TASKS[len(logits)])
    description = _describe_network(options, source, logits, tapped)
    report_description(report, options, source, description, tapped)
    reference, quantized = source.reference, source.quantized
    folder = _write_verified(tapped.trunk, description, reference, options, report, tapped.layers, quantized)
    for warning in tapped.warnings:
        report(format_line("warning", warning))
    return folder


def _convert_bundle(options: ExportOptions, report: Report) -> Path:
    """Export a float32 bundle in lower precision."""
    folder = Path(options.source)
    manifest = read_manifest(folder)
    _require_convertible(options, manifest)
    report(format_line("source", f"{manifest.name}/{manifest.version}, a bundle"))
    description = _describe_bundle(options, manifest)
    trunk = onnx.load(folder / manifest.trunk)
    unavailable = {layer.name: layer.unavailable for layer in manifest.layers if layer.unavailable}
    tails = build_tails(Graph(trunk), description.layers, description.with_tails, unavailable)
    return _write_verified(trunk, description, None, options, report, tails)


def _describe_network(
    options: ExportOptions, source: SourceNetwork, logits: Shape, tapped: TappedNetwork
) -> BundleDescription:
    """The description of a network's bundle: the options, completed by what the source states and by guesses."""
    task = TASKS[len(logits)]
    labels = choose_labels(options.labels, source.labels, logits[1] or 0, source.head.added is not None)
    return BundleDescription(
        name=options.name,
        version=options.version,
        task=task,
        labels=labels,
        activation=source.activation,
        head=source.head,
        preprocessing=source.preprocessing,
        layers=[layer.name for layer in tapped.layers],
        cam_layer=tapped.cam_layer,
        provenance=Provenance(
            source=Path(options.source).name if is_onnx_file(options.source) else options.source,
            weights=source.weights,
            license=options.license or source.license,
        ),
        background=_choose_background(options, task, labels, source.head),
        precision="int8" if source.quantized else options.precision,
        tf32=options.tf32,
        aliases=tapped.aliases,
        layouts=tapped.layouts,
    )


def _describe_bundle(options: ExportOptions, manifest: Manifest) -> BundleDescription:
    """The description of a bundle that is exported from another one: the manifest, changed by the options."""
    layers = [layer.name for layer in manifest.layers]
    named, cam_layer = _find_layers(manifest, options.layers), options.cam_layer or manifest.cam_layer
    (cam_layer,) = _find_layers(manifest, [cam_layer])
    return BundleDescription(
        name=options.name,
        version=options.version,
        task=manifest.task,
        labels=manifest.labels,
        activation=manifest.activation,
        head=manifest.head,
        preprocessing=manifest.preprocessing,
        layers=layers,
        cam_layer=cam_layer,
        provenance=manifest.provenance.model_copy(update={"metrics": {}}),  # measured in float32
        palette=manifest.palette,
        background=manifest.background,
        with_tails={*named, cam_layer},
        precision=options.precision,
        tf32=options.tf32 or manifest.tf32,
        aliases={layer.name: layer.aliases for layer in manifest.layers},
        layouts={layer.name: layer.layout for layer in manifest.layers},
    )


def _find_layers(manifest: Manifest, names: Sequence[str]) -> list[str]:
    """The names of the layers that have these names or aliases."""
    layers = [manifest.layer(name) for name in names]
    if None in layers:
        known = ", ".join(layer.name for layer in manifest.layers)
        raise BundleError(f"the bundle has no layer {names[layers.index(None)]!r}; it has {known}")
    return [layer.name for layer in layers if layer]


def _require_convertible(options: ExportOptions, manifest: Manifest) -> None:
    if options.precision == "float32" or manifest.precision != "float32":
        raise BundleError(
            f"{options.source} is a bundle in {manifest.precision}: only one in float32 can get another --precision"
        )
    if options.preprocessing or options.labels or options.activation or options.weights != "default":
        raise BundleError(
            "for a bundle, only --name, --version, --cam-layer, --layers, --precision and --tf32 can be given"
        )


def _choose_background(options: ExportOptions, task: TaskName, labels: Sequence[str], head: OutputHead) -> int | None:
    """The class of the background: from the options, else class 0 of a segmenter if it was added or has that name."""
    if options.background not in (None, *range(len(labels))):
        raise BundleError(f"the background {options.background} is not a class: there are 0 to {len(labels) - 1}")
    if options.background is not None:
        return options.background
    is_background = head.added is not None or labels[0].strip("_").lower() == "background"
    return 0 if task == "segmentation" and is_background else None


def _write_verified(
    trunk: ModelProto,
    description: BundleDescription,
    reference: Reference,
    options: ExportOptions,
    report: Report,
    tails: Sequence[TappedLayer],
    quantized: ModelProto | None = None,
) -> Path:
    """Write the bundle; verify it before it takes its place: lower precision against the float32 trunk.

    `quantized` is the trunk with rounding where the source has it; that is verified against the source.
    """
    photos = list(read_photos(options.calibration, description.preprocessing)) if options.calibration else []
    if photos:
        report(format_line("calibration", f"{len(photos)} photos"))
    compared = np.stack(photos[:: -(-len(photos) // COMPARED_PHOTOS)]) if photos else None
    lower = partial(restore_rounding, quantized=quantized) if quantized else _choose_conversion(options, photos)
    lossy = options.precision != "float32"

    def check(folder: Path) -> None:
        """Report the checks of the finished folder, and raise where one fails."""
        report(_format_size(folder, description))
        expected = trunk_reference(trunk, read_manifest(folder)) if lossy else reference
        checks = verify_bundle(folder, expected, compared, lambda check: report(format_check(check)))
        if not all(check.passed for check in checks):
            problem = f"{options.precision} loses too much" if lossy else "the bundle does not compute the same"
            raise BundleError(f"{problem}: see the failed checks above")

    return write_bundle(trunk, description, options.out, lower, check, tails)


def _choose_conversion(options: ExportOptions, photos: Sequence[Array]) -> Callable[[ModelProto], ModelProto] | None:
    """The conversion of a trunk to the precision of the options; None for float32."""
    if options.precision == "int8":
        return partial(to_int8, photos=photos)
    return to_float16 if options.precision == "float16" else None


def _format_size(folder: Path, description: BundleDescription) -> str:
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    tf32 = ", TF32" if description.tf32 else ""
    return format_line("bundle", f"{megabytes:.1f} MB, {description.precision}{tf32}; verifying it")
