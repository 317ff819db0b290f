"""The steps of the tour in their order."""

from __future__ import annotations

from examples.hospital.steps_messages import (
    a_check_in_goes_round,
    everything_is_killed,
    one_of_each_group,
    the_account,
    the_broker_is_killed,
)
from examples.hospital.steps_patient import (
    a_replica_hangs,
    a_replica_is_killed,
    bad_input_is_explained,
    patient_fails,
    patient_hangs,
    patient_is_gone,
    patient_is_slow,
    reception_is_gone,
    replicas_share_the_load,
    the_registry_is_killed,
)
from examples.hospital.steps_scaling import a_new_version_is_rolled_out, an_alert_adds_a_replica

STEPS = (
    replicas_share_the_load,
    bad_input_is_explained,
    a_check_in_goes_round,
    one_of_each_group,
    a_replica_is_killed,
    a_replica_hangs,
    patient_is_slow,
    patient_fails,
    patient_hangs,
    patient_is_gone,
    reception_is_gone,
    the_registry_is_killed,
    the_broker_is_killed,
    everything_is_killed,
    an_alert_adds_a_replica,
    a_new_version_is_rolled_out,
    the_account,
)
