"""Load for a service or a gateway, as many independent users make it.

python -m examples.hospital.load http://127.0.0.1:8080/patient/1 --users 50 --rate 20 --duration 30
python -m examples.hospital.load http://patient/patients/1 --registry eureka://localhost:8761
"""

import sys

from examples.support.beginning import begin

if __name__ == "__main__":
    needed = ("resilient", "httpx", "hdrh", "plotext", "rich")
    sys.exit(begin("examples.hospital.load.command", needed=needed, command="make demo-hospital"))
