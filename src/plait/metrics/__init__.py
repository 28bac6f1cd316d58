"""Metrics per kind of task; a metric that is undefined says so and why."""

from plait.metrics.base import Metric, Undefined, replicates
from plait.metrics.table import METRICS, check_metrics, metric_of

__all__ = ["METRICS", "Metric", "Undefined", "check_metrics", "metric_of", "replicates"]
