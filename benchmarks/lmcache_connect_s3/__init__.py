"""The S3 connector, compared with other clients: `make bench-s3`."""
