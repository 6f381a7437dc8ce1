"""S3-compatible stores: AWS, MinIO, Ceph, Cloudflare R2, rclone and others."""
