-- What others sign is stored by the gateway that asked them, which need not be the one that leads.
GRANT INSERT, UPDATE ON anchor TO countersign_gateway;
