"""The autoscaler as a process: replicas on this machine, or tasks of a Docker swarm.

python -m examples.hospital.scaling --registry URL -- examples.hospital.patient --registry URL --id {id}
python -m examples.hospital.scaling --docker-service hospital_patient
"""

import sys

from examples.support.beginning import begin

if __name__ == "__main__":
    needed = ("resilient", "httpx", "starlette", "uvicorn")
    sys.exit(begin("examples.hospital.scaling.command", needed=needed, command="make demo-hospital"))
