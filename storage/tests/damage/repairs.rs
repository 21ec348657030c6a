//! Repair: what is provably good goes over, what is lost is told, and no offset is given out twice.
