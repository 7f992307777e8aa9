"""Who calls: bearer tokens and client certificates, each of one tenant, with what they may do."""
