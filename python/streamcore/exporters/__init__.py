"""Ways out for what `Worker.metrics` measures: Prometheus, CloudWatch and OpenTelemetry.

Each reads `metrics` and counts nothing itself, so any number of them may be used together. Each needs an extra, which is imported when the
exporter is made.
"""
