"""The pages of the monitor: data in, rich renderables out, each in a given room."""

from __future__ import annotations

from launch.monitor.detail import detail
from launch.monitor.overview import overview, students
from launch.monitor.table import unit_table

__all__ = ["detail", "overview", "students", "unit_table"]
