//! Archives, unpacked in their box.
