//! Brokers for tests that change a few methods and forward the others to the broker inside.

/// Forwards the named methods of `Broker` to the broker in a field: `forward!(inner: declare get close);`.
#[macro_export]
macro_rules! forward {
    ($inner:tt: $($method:ident)*) => { $($crate::forward!(@$inner $method);)* };
    (@$inner:tt capabilities) => {
        fn capabilities(&self) -> ::mq_worker::broker::Capabilities {
            self.$inner.capabilities()
        }
    };
    (@$inner:tt declare) => {
        fn declare<'a>(
            &'a self,
            topology: &'a ::mq_worker::Topology,
        ) -> ::futures_util::future::BoxFuture<'a, ::mq_worker::Result<()>> {
            self.$inner.declare(topology)
        }
    };
    (@$inner:tt publish) => {
        fn publish(
            &self,
            publication: ::mq_worker::broker::Publication,
        ) -> ::futures_util::future::BoxFuture<'_, ::mq_worker::Result<()>> {
            self.$inner.publish(publication)
        }
    };
    (@$inner:tt consume) => {
        fn consume(
            &self,
            subscription: ::mq_worker::broker::Subscription,
        ) -> ::futures_util::future::BoxFuture<'_, ::mq_worker::Result<::mq_worker::broker::Consumer>> {
            self.$inner.consume(subscription)
        }
    };
    (@$inner:tt get) => {
        fn get<'a>(
            &'a self,
            queue: &'a str,
        ) -> ::futures_util::future::BoxFuture<'a, ::mq_worker::Result<Option<::mq_worker::broker::Delivery>>>
        {
            self.$inner.get(queue)
        }
    };
    (@$inner:tt close) => {
        fn close(&self) -> ::futures_util::future::BoxFuture<'_, ()> {
            self.$inner.close()
        }
    };
}

/// Forwards `Administration` to the broker in a field, and leaves out the registers.
#[macro_export]
macro_rules! forward_administration {
    ($broker:ty, $inner:tt) => {
        impl ::mq_worker::broker::Administration for $broker {
            fn queues<'a>(
                &'a self,
                names: &'a [String],
            ) -> ::futures_util::future::BoxFuture<'a, ::mq_worker::Result<Vec<::mq_worker::broker::QueueInfo>>>
            {
                self.$inner.queues(names)
            }

            fn purge<'a>(
                &'a self,
                queue: &'a str,
            ) -> ::futures_util::future::BoxFuture<'a, ::mq_worker::Result<u64>> {
                self.$inner.purge(queue)
            }

            fn delete_queue<'a>(
                &'a self,
                queue: &'a str,
            ) -> ::futures_util::future::BoxFuture<'a, ::mq_worker::Result<()>> {
                self.$inner.delete_queue(queue)
            }
        }

        impl ::mq_worker::broker::Registers for $broker {}
    };
}
