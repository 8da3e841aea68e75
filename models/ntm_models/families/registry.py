"""Which families there are, and where each one's step class is. No torch, so that recipes can be read anywhere."""

# The name in recipes and manifests, and the class that `build_step` makes.
FAMILIES: dict[str, str] = {
    "ntm": "ntm_models.ntm:NTM",
    "dnc": "ntm_models.dnc:DNC",
    "lstm": "ntm_models.lstm:StackedLSTM",
    "cascaded-ntm": "ntm_models.families.cascaded:CascadedNTM",
    "token-turing": "ntm_models.families.token_turing:TokenTuringMachine",
    "gru-ntm": "ntm_models.families.gru_ntm:GRUNTM",
    "speaker-memory": "ntm_models.families.speaker_memory:SpeakerMemory",
    "mann": "ntm_models.families.mann:MANN",
    "entnet": "ntm_models.families.entnet:EntNet",
    "dntm": "ntm_models.families.dntm:DNTM",
    "lantm": "ntm_models.families.lantm:LANTM",
    "state-space": "ntm_models.families.state_space:StateSpace",
}
