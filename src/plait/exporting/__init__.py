"""Exporting: a model as a file that other programs run, checked against the model itself."""

from plait.exporting.check import ExportError
from plait.exporting.hub import export_hf
from plait.exporting.onnx_file import export_onnx
from plait.exporting.torch_file import export_torch

__all__ = ["ExportError", "export_hf", "export_onnx", "export_torch"]
