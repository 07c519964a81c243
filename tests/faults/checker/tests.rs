//! A history in which all is well, and what the checker says when it is doctored.
