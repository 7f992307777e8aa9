"""What can be seen from outside: Prometheus metrics, and OpenTelemetry traces sent by OTLP over HTTP."""
