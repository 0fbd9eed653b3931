"""Kubernetes: kustomize files, and what writes and checks beside them (docs/kubernetes.md)."""
