# SPDX-License-Identifier: MIT
"""What the flow tests stand on: real servers, faults between them, and the daemon itself."""
