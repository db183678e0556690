//! celery_interop
