"""Checks the overlays without a cluster: `python -m deploy.k8s.check`, exit 1 with what is wrong.

Each is rendered by kustomize and held against Kubernetes' own schemas, which know every field. What
cert-manager and CloudNativePG bring has none here: tests/contract/kubernetes looks at its fields.
"""

import sys
from collections.abc import Iterator

from kubernetes_validate import InvalidSchemaError, SchemaNotFoundError, ValidationError, validate

from deploy.k8s.manifests import OVERLAYS, STEPS, Manifest, render

# Both ends of what docs/kubernetes.md promises.
_VERSIONS = ("1.33", "1.37")
_FOREIGN = ("cert-manager.io/", "postgresql.cnpg.io/")


def errors_of(manifest: Manifest) -> Iterator[str]:
    if manifest["apiVersion"].startswith(_FOREIGN):
        return
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    for version in _VERSIONS:
        try:
            validate(manifest, version, strict=True)
        except ValidationError as error:
            place = ".".join(str(part) for part in error.path)
            yield f"{name}, Kubernetes {version}: {place}: {error.message}"
        except (InvalidSchemaError, SchemaNotFoundError) as error:
            yield f"{name}, Kubernetes {version}: {error.message}"


def main() -> int:
    wrong = []
    for overlay in OVERLAYS:
        for step in STEPS:
            try:
                manifests = render(overlay, step)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                return 1
            wrong += [f"{overlay}/{step}: {error}" for each in manifests for error in errors_of(each)]
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
