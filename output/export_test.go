package output

// RealFS is the file system that a nil FS stands for.
type RealFS = osFS
