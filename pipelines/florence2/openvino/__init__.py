"""The backend `openvino`: vision tower and text encoder run through OpenVINO, everything else stays in torch."""
