//! pika
