//! Checks behind one enum.
