-- Holds, erasures and changes are read often, and count only if they are leaves. Without this each look would
-- read all of the log's leaves. It also keeps a record from having two places.
CREATE UNIQUE INDEX leaf_place ON leaf (tenant, replica, epoch, seq);
