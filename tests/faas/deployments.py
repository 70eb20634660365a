"""What the tests of deployments have in common."""

import os
from pathlib import Path

SIGNING = "private-" + "0123456789abcdef" * 2 + "0123456789A"  # the driving process's
IMAGE = "dev.local/kdlib:latest"
CRD = Path(os.environ.get("KDLIB_KNATIVE_CRD") or Path(__file__).parents[3] / "shared/knative/service-crd.yaml")
